"""Settings of JupyterLab for these notebooks: `jupyter lab --config=notebooks/jupyter_lab_config.py notebooks`."""

c = get_config()  # noqa: F821  Jupyter defines it

# What a browser sends at once, such as photographs for the upload button. Above it the connection is closed without a
# word, and the default is 10 MiB: two or three photographs of a telephone.
c.ServerApp.tornado_settings = {"websocket_max_message_size": 2**30}
