import { page } from '../pages/page.ts'

page(() => () => {})
