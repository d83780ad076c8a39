"""Models of random weights in the shapes of real pairs: what routing takes on a card."""
