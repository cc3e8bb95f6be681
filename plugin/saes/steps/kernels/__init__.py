"""What the fast steps are made of: selection, sums of chosen rows, dense products, passes over memory."""
