"""What every room may use: aligned tables and progress callbacks."""
