"""Settings of the web server; it reads the port from PORT by itself."""

workers = 1
threads = 8
worker_class = "gthread"
# Longer than the proxy in front keeps an idle connection, so that it is never closed under a request.
keepalive = 75
# Time for requests under way after SIGTERM.
graceful_timeout = 20
# Worker heartbeats need no disk.
worker_tmp_dir = "/dev/shm"
accesslog = "-"
# Nobody manages it from inside; the platform does.
control_socket_disable = True
