"""Adapters of srr_guard for frameworks outside LangChain, one module each.

Importing an adapter does not import its framework.
"""
