from hypothesis import settings

# The first example of a test may import scipy or pyarrow, and tests run side by side on busy processors: how long an
# example takes says nothing of what is tested.
settings.register_profile("patient", settings.default, deadline=None)
settings.load_profile("patient")
