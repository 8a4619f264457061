"""What a trained model does for its users: lists of drawings and answers, chat, the page.

Imports `drawing`, `saved` and `model`. Begin with `answering`, which all that asks goes through, or
`generate`, a list of drawings.
"""
