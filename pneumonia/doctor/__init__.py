"""Examining this machine: whether the installation works, and what dead processes left behind."""
