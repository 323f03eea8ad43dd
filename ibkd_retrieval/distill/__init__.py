"""Teacher to student: objectives, teacher cache, training, the finished model folder."""
