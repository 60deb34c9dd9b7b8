"""The page of ``minibit report``, from files to HTML: read, numbers, sections, figures, template."""
