"""Make spans and Sentry scopes of handled events, where a project has set these up."""
