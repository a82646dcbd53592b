"""From text to a trained model and its record: corpus, routing, model, schedule, one run."""
