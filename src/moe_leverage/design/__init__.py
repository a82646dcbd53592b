"""The law in use: explain a model, predict a point, search for a design, Hugging Face configs."""
