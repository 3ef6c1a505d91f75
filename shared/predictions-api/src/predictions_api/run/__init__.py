"""The running of predictions: service, queue, Cog servers and webhooks."""
