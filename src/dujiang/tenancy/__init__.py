"""Users, projects, memberships, roles, tokens and the audit trail."""
