"""What a sweep showed: tables, figures and one page, from run folders alone."""
