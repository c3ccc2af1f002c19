"""What a trained model says: sampling, beams, the likelihood of answers, and scores of texts."""
