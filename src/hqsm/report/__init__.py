"""Pages and figures that people look at; each page is one file that needs no network."""
