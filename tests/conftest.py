"Ctrl-C reaches the processes that tests start, also where the tests themselves run in the background"
import signal

# A shell has its background jobs ignore SIGINT, and what they start inherits that
signal.signal(signal.SIGINT, signal.default_int_handler)
