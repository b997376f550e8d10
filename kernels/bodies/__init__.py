"""What is compiled: loops over elements, in files that import numba. Glue only names them."""
