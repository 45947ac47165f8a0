"""The verbs of the command line. A verb's imports are inside its function, so that --help answers at once."""
