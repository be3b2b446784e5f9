"""The command ``models``: lists model names and aliases for ``--pose2d``."""


def main() -> int:
    """Print the model names of this package and the aliases of MMPose; returns 0."""
    from mmpose.apis.inferencers.utils import get_model_aliases

    from ..models.names import ALIASES, own_configs

    print('Models of this package:')
    for name, path in own_configs().items():
        print(f'  {name:<24}{path}')
    for alias, name in ALIASES.items():
        print(f'  {alias:<24}{name}')
    print("\nAliases of MMPose's models:")
    for alias, name in sorted(get_model_aliases('mmpose').items()):
        print(f'  {alias:<24}{name}')
    return 0
