"""Floor 7: the operator's status page, one HTML file, a client of the API only (``status.html``)."""
