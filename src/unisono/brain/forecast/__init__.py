"""What devices would do undispatched: clear-sky irradiance and reference powers."""
