"""What a trained model does for its users: lists of drawings and answers, chat, the page.

Imports `drawing`, `saved` and `model`. Begin with `draw_list`.
"""
