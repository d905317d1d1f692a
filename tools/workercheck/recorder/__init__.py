"""What runs inside every watched process. Standard library only; imports itself and `libraries`."""
