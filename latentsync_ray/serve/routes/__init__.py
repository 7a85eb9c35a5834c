"""The routes, a file each for what they are about. They validate and pass on; none of them touches a picture."""

__all__: list[str] = []
