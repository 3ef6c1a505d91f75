"""What runs predictions: the service, its queue, Cog servers, webhooks."""
