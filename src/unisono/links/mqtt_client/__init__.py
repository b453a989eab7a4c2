"""MQTT through a broker the operator has (mosquitto, EMQX, a cloud's): we are a client there. ``link`` is the link."""
