"""A study run every night: what each night measured, beside the nights before it."""
