"""In: requests to this machine. Out: the page in `page.py`, for who asks by a name that this server
is known by.

`streamlit run app/app.py` serves `savefolder/`; `streamlit run app/app.py -- FOLDER` another folder
of models. A page of another site cannot reach the models through a name of its own that leads here
(DNS rebinding): it is refused.
"""

import streamlit as st
from server import known_names
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

app = st.App("page.py", middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=known_names())])
