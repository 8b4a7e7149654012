"""What finished runs show: comparison, statement, tables, pages, figures."""
