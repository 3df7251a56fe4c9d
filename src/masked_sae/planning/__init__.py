"""What training would take, before it begins: arithmetic, memory, disk and time, of each job and of all."""
