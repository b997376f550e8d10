"""Ways to run the tasks of a plan; the serial one defines the truth."""
