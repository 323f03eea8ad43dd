"""What a student is trained to do, one objective a file."""
