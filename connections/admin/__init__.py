"""Register the models with Django admin; Django imports this package."""

from connections.admin import site as site
