"""What is hidden while an SAE trains, and when."""
