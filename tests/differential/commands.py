from support.twins import Step

STORIES: dict[str, list[Step]] = {}
