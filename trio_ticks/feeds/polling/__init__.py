"""The feed that asks again and again, where a venue does not push."""
