"""What runs in the pod of an object store: moto's server of the S3 protocol behind a plug, with a remote control."""

from xmlrpc.server import SimpleXMLRPCServer

from moto.server import ThreadedMotoServer

from plug import Plug

# The way of the jobs, that past the plug, and the plug's remote control.
PORT, DIRECT_PORT, CONTROL_PORT = 9000, 9001, 9002


def main() -> None:
    """Serve until the pod goes. Objects are there as long as this process."""
    ThreadedMotoServer("0.0.0.0", DIRECT_PORT).start()
    plug = Plug(("127.0.0.1", DIRECT_PORT), listen=("0.0.0.0", PORT))
    control = SimpleXMLRPCServer(("0.0.0.0", CONTROL_PORT), logRequests=False, allow_none=True)
    control.register_instance(plug)
    control.serve_forever()


if __name__ == "__main__":
    main()
