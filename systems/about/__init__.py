"""What a system tells of itself: a summary as text and as a card for notebooks."""
