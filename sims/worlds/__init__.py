"""What worlds are made of: graphs, values of concepts, concept sets with gaps."""
