"""What people read of an artifact: its card, its page, its diagrams."""
