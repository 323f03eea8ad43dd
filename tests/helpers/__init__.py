"""What tests of several rooms share: tiny models and runs, fakes, the driver of the command."""
