function file = store_QSM_results(varargin)
% The toolbox would write a results folder here.
file = '';
end
