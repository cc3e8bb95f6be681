"""What is true of a learner: rows with their posteriors, the best linear readers, steering vectors."""
