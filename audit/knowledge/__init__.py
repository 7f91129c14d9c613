"""What a model knows of a topic's facts, under every condition: which it says, which can be read, how much is left."""
