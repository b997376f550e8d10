"""Names: a view from one convention's names and layouts of tensors to another's."""
