"""What a trained model costs to serve: measured latency, memory and money.

`measurement`, which needs torch, is imported by itself: a driver counts money and measures nothing.
"""
