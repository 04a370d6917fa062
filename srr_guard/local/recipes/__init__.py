"""Recipes in the decode loop: one small file for each way to make a candidate."""
