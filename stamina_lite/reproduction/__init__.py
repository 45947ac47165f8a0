"""Reproduction of the papers: grids of runs, claims, tables, figures and the report."""
