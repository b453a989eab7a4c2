"""MQTT by the embedded nats-server's own port: QoS 0 off a raw socket, QoS 1 and batches from the server's own stream.

``link`` is the link; ``socket`` reads QoS 0; ``kept`` reads what was acknowledged.
"""
