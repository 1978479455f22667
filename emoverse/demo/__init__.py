"""A page in the browser on which an exported model is asked about one's own clip. Only this room imports gradio."""
