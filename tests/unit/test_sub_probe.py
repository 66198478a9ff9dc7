import keras, numpy as np, pytest, tensorflow as tf, sys
sys.path.insert(0,"tests/unit")
from likeness import *
import kparallel
L=keras.layers
X=np.random.default_rng(0).normal(size=(7,3)); Y=np.random.default_rng(1).normal(size=(7,2))

@keras.saving.register_keras_serializable("tests2")
class Tracked(keras.Model):
    def __init__(self, **kw):
        super().__init__(**kw); self.top=L.Dense(2); self.tracker=keras.metrics.Mean(name="tracked")
    def call(self,x): return self.top(x)
    def compute_loss(self,x=None,y=None,y_pred=None,sample_weight=None,training=True):
        loss=keras.ops.mean((y-y_pred)**2); self.tracker.update_state(loss); return loss
@keras.saving.register_keras_serializable("tests2")
class InCall(keras.Model):
    def __init__(self, **kw):
        super().__init__(**kw); self.top=L.Dense(2); self.tracker=keras.metrics.Mean(name="tracked")
    def call(self,x):
        y=self.top(x); self.tracker.update_state(y); return y
@keras.saving.register_keras_serializable("tests2")
class InMetrics(keras.Model):
    def __init__(self, **kw):
        super().__init__(**kw); self.top=L.Dense(2); self.tracker=keras.metrics.MeanAbsoluteError(name="tracked")
    def call(self,x): return self.top(x)
    @property
    def metrics(self): return [self.tracker, *super().metrics]
    def compute_metrics(self,x,y,y_pred,sample_weight=None):
        self.tracker.update_state(y,y_pred); return self.get_metrics_result()
@keras.saving.register_keras_serializable("tests2")
class OwnCompile(keras.Model):
    def __init__(self, **kw):
        super().__init__(**kw); self.top=L.Dense(2)
    def call(self,x): return self.top(x)
    def compile(self, optimizer="auto", loss="mae", scale=1.0):
        super().compile(keras.optimizers.SGD(0.25*scale) if optimizer=="auto" else optimizer, loss)
@pytest.mark.parametrize("cls",[Tracked,InCall,InMetrics,OwnCompile])
@pytest.mark.parametrize("loss", ["global","mean"])
def test_it(cls, loss):
    doubles()
    p=cls(); p(X[:1]); 
    for m in [p.tracker] if hasattr(p,"tracker") else []: m.reset_state()
    w=kparallel.wrap(p,replicas=2,loss_reduction=loss)
    args=dict(optimizer="adam",loss="mse") if cls is not OwnCompile else {"scale":2.0}
    assert_fit_alike(w,p,lambda m: {"x":X,"y":Y,"batch_size":3},lambda: args)
@keras.saving.register_keras_serializable("tests2")
class Penalized(keras.Model):
    def __init__(self, **kw):
        super().__init__(**kw); self.top=L.Dense(2, kernel_regularizer="l2", activity_regularizer="l2")
    def call(self,x): return self.top(x)
    def compute_loss(self,x=None,y=None,y_pred=None,sample_weight=None,training=True):
        return 0.5*super().compute_loss(x,y,y_pred,sample_weight,training)
@keras.saving.register_keras_serializable("tests2")
class Reads(Penalized):
    def compute_loss(self,x=None,y=None,y_pred=None,sample_weight=None,training=True):
        return keras.ops.mean((y-y_pred)**2)+0.1*keras.ops.sum(self.top.kernel**2)
@keras.saving.register_keras_serializable("tests2")
class Calls(Penalized):
    def compute_loss(self,x=None,y=None,y_pred=None,sample_weight=None,training=True):
        return keras.ops.mean((self(2*x,training=training)-y_pred)**2)
@pytest.mark.parametrize("cls",[Penalized,Reads,Calls])
@pytest.mark.parametrize("loss", ["mean","global"])
@pytest.mark.parametrize("replicas", [1,2])
def test_pen(cls, loss, replicas):
    doubles()
    p=cls(); p(X[:1]); 
    w=kparallel.wrap(p,replicas=replicas,loss_reduction=loss)
    assert_fit_alike(w,p,lambda m: {"x":X,"y":Y,"batch_size":3},lambda: dict(optimizer="adam",loss="mse"))
